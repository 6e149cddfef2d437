//! The market over real HTTP on real stores.

extern crate plexus_market as market;

mod archive;
mod auth;
mod bad_input;
mod blobs;
mod contract;
mod distributed;
mod durability;
mod events;
mod judge;
mod limits;
mod lists;
mod proofs;
mod rig;
mod sealed;
mod spine;
mod tls;
