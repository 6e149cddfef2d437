//! Native worker: lease loop, executor process, watchdog, device facts.
