//! Numbers as Java's `toString` writes them, which is what Kafka Connect's converters write.

mod decimal;
mod float;

pub use self::decimal::write_decimal;
pub use self::float::{write_double, write_float};
