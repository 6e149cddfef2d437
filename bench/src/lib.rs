//! Measured comparisons.
