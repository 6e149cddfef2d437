//! The market's rules as a pure state machine.
