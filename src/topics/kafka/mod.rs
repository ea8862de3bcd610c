//! Kafka as the topic log.
//!
//! - [`client`]: settings of Java clients as those of librdkafka
//! - [`errors`]: what Kafka's errors mean here

pub mod client;
pub mod errors;
