//! What is compiled from schemas, kept by their identity.

use std::collections::HashMap;
use std::sync::Arc;

use tailwater_api::SchemaId;

/// At most this many are kept; past it all are forgotten and compiled anew. Sources have a few schemas per table.
const CAPACITY: usize = 4096;

/// Keeps what was compiled from a schema. The last one is at hand, since records of a table follow each other.
#[derive(Debug)]
pub struct SchemaCache<T> {
    compiled: HashMap<SchemaId, Arc<T>>,
    last: Option<(SchemaId, Arc<T>)>,
}

impl<T> Default for SchemaCache<T> {
    fn default() -> Self {
        Self { compiled: HashMap::new(), last: None }
    }
}

impl<T> SchemaCache<T> {
    /// What belongs to the schema `id`, compiled now if it is not there.
    ///
    /// # Errors
    /// Those of `compile`; nothing is kept then.
    pub fn get<E>(&mut self, id: SchemaId, compile: impl FnOnce() -> Result<T, E>) -> Result<&Arc<T>, E> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != id) {
            let compiled = match self.compiled.get(&id) {
                Some(compiled) => Arc::clone(compiled),
                None => {
                    let compiled = Arc::new(compile()?);
                    if self.compiled.len() >= CAPACITY {
                        self.compiled.clear();
                    }
                    self.compiled.insert(id, Arc::clone(&compiled));
                    compiled
                }
            };
            self.last = Some((id, compiled));
        }
        Ok(&self.last.as_ref().expect("it was set above").1)
    }
}

#[cfg(test)]
mod tests {
    use tailwater_api::{Kind, Schema};

    use super::*;

    #[test]
    fn each_schema_is_compiled_once_and_their_number_is_bounded() {
        let mut cache = SchemaCache::default();
        let schemas: Vec<_> = (0..=CAPACITY).map(|_| Schema::of(Kind::Int32).build()).collect();
        let mut compiled = 0;
        for schema in [&schemas[0], &schemas[1], &schemas[0]] {
            let kept = cache.get(schema.id(), || {
                compiled += 1;
                Ok::<_, ()>(schema.id())
            });
            assert_eq!(kept.map(|id| **id), Ok(schema.id()));
        }
        assert_eq!(compiled, 2);
        for schema in &schemas {
            assert!(cache.get(schema.id(), || Ok::<_, ()>(schema.id())).is_ok());
        }
        assert!(cache.compiled.len() <= CAPACITY);
    }

    #[test]
    fn what_fails_is_tried_again() {
        let schema = Schema::of(Kind::Int32).build();
        let mut cache = SchemaCache::default();
        assert_eq!(cache.get(schema.id(), || Err::<i32, _>("no")), Err("no"));
        assert_eq!(cache.get(schema.id(), || Ok::<_, &str>(1)).map(|one| **one), Ok(1));
    }
}
