//! The GPU behind a process boundary.
//!
//! A shader that never ends cannot be stopped through any graphics API, and a driver that fails takes its process with it. So the
//! device lives in a child process: [`serve`] is its main loop, [`Executor`] the parent's handle. Killing the child is the
//! watchdog's whole remedy; starting another takes a fraction of a second.
//!
//! They speak length-prefixed frames over the child's standard input and output; its log goes to standard error. The child obeys in
//! order and keeps several units in flight, so that one is read back while the next one runs. The parent believes nothing that
//! the child says about sizes. The child checks each program itself: what it runs has been through `program::check` here.
//!
//! Neither side decides how long a unit may take, or what becomes of the others when it took too long: that is the caller's.

mod frame;
mod parent;
mod serve;

pub use self::{
    parent::{Executor, ExecutorCommand},
    serve::serve,
};
