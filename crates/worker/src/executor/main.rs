//! The executor alone, for tests of the process boundary. The product starts itself instead.

fn main() -> std::io::Result<()> {
    plexus_worker::executor::serve(std::io::stdin(), std::io::stdout())
}
