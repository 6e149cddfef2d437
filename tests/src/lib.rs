//! End-to-end tests, across processes and browsers.
