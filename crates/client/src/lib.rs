//! Rust client of the market's HTTP API.
