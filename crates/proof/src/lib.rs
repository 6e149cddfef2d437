//! Proof of compute: checks and their soundness.
