//! The `tailwater` command.

/// Records are made on one thread and given back on another, those of librdkafka, too, whose allocations it takes over. That costs
/// this allocator a fifth less of the CPU of a row into Kafka than the system's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    tailwater::cli::main()
}
