//! Levels of the log, and changing them while the worker runs.
//!
//! A logger is a target of `tracing`: a crate or module, `tailwater::runtime`. Levels begin as `log.level` says, in the
//! directives of `EnvFilter`; a change adds a directive behind them, and the later and more exact one wins. `root` is what holds
//! where nothing more exact does. Every target that has logged is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Filter};

/// Name of the level that holds where nothing more exact does.
pub const ROOT: &str = "root";
/// Loggers that can be set beside those that exist; what asks for more is no operator (I6).
const MOST_CHANGES: usize = 1000;

/// The level of one logger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// What is logged
    pub level: LevelFilter,
    /// When it was set, in milliseconds since 1970 UTC; `None` where it never was
    pub set_at: Option<u64>,
}

/// The levels of this process. Cloning shares them.
#[derive(Clone)]
pub struct Levels(Arc<Inner>);

struct Inner {
    /// `log.level`
    configured: String,
    changes: Mutex<BTreeMap<String, Level>>,
    seen: Mutex<BTreeSet<&'static str>>,
    filter: RwLock<EnvFilter>,
}

impl Levels {
    /// Levels as `configured` says, `info` where that is not valid.
    #[must_use]
    pub fn new(configured: &str) -> Self {
        let (configured, filter) = match EnvFilter::try_new(configured) {
            Ok(filter) => (configured, filter),
            Err(_) => ("info", EnvFilter::new("info")),
        };
        let inner =
            Inner { configured: configured.to_owned(), changes: Mutex::default(), seen: Mutex::default(), filter: RwLock::new(filter) };
        Self(Arc::new(inner))
    }

    /// All loggers by name.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, Level> {
        self.names().into_iter().map(|name| (name.clone(), self.effective(&name))).collect()
    }

    /// The level of `name`, if there is such a logger.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Level> {
        self.names().contains(name).then(|| self.effective(name))
    }

    /// Sets the level of `name` and of all loggers below it, and says their names.
    ///
    /// # Errors
    /// The name cannot be one of a logger, or too many were set already.
    pub fn set(&self, name: &str, level: LevelFilter) -> Result<Vec<String>, String> {
        let is_named = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | ':' | '.' | '-');
        if name.is_empty() || name.len() > 200 || !name.chars().all(is_named) {
            return Err(format!("{name:?} cannot be the name of a logger"));
        }
        let mut names: BTreeSet<String> = self.names().into_iter().filter(|known| is_below(known, name)).collect();
        names.insert(name.to_owned());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        {
            let mut changes = self.0.changes.lock().unwrap_or_else(PoisonError::into_inner);
            let more = names.iter().filter(|name| !changes.contains_key(*name)).count();
            if changes.len() + more > MOST_CHANGES {
                return Err(format!("the levels of {MOST_CHANGES} loggers have been set already"));
            }
            changes.extend(names.iter().map(|name| (name.clone(), Level { level, set_at: Some(now) })));
            let mut text = self.0.configured.clone();
            for (name, Level { level, .. }) in &*changes {
                text.push_str(&if name == ROOT { format!(",{level}") } else { format!(",{name}={level}") });
            }
            let filter = EnvFilter::try_new(&text).map_err(|error| format!("{name:?} cannot be the name of a logger: {error}"))?;
            *self.0.filter.write().unwrap_or_else(PoisonError::into_inner) = filter;
        }
        tracing::callsite::rebuild_interest_cache();
        Ok(names.into_iter().collect())
    }

    /// Configured directives of the form `target=level` or `level`.
    fn configured(&self) -> impl Iterator<Item = (&str, LevelFilter)> {
        self.0.configured.split(',').filter_map(|directive| match directive.trim().split_once('=') {
            Some((target, level)) if !target.contains(['[', '{']) => Some((target, level.parse().ok()?)),
            Some(_) => None,
            None => directive.trim().parse().ok().map(|level| (ROOT, level)),
        })
    }

    fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::from([ROOT.to_owned()]);
        names.extend(self.configured().map(|(name, _)| name.to_owned()));
        names.extend(self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|name| (*name).to_owned()));
        names.extend(self.0.changes.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned());
        names
    }

    /// What holds for `name`: the most exact of what was said, the later of two.
    fn effective(&self, name: &str) -> Level {
        let changes = self.0.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let configured = self.configured().map(|(target, level)| (target, Level { level, set_at: None }));
        let said = configured.chain(changes.iter().map(|(target, level)| (target.as_str(), *level)));
        let exactness = |target: &str| if target == ROOT { 0 } else { target.len() };
        let holding = said.filter(|(target, _)| *target == ROOT || name.starts_with(target)).max_by_key(|(target, _)| exactness(target));
        let Some((target, level)) = holding else { return Level { level: LevelFilter::ERROR, set_at: None } };
        Level { set_at: level.set_at.filter(|_| target == name), ..level }
    }

    fn filter(&self) -> std::sync::RwLockReadGuard<'_, EnvFilter> {
        self.0.filter.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the logger `known` lies below `name`.
fn is_below(known: &str, name: &str) -> bool {
    let rest = if name == ROOT { Some("::") } else { known.strip_prefix(name) };
    rest.is_some_and(|rest| rest.starts_with("::") || rest.starts_with('.'))
}

impl<S: Subscriber> Filter<S> for Levels {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        Filter::enabled(&*self.filter(), metadata, context)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(metadata.target());
        Filter::<S>::callsite_enabled(&*self.filter(), metadata)
    }

    fn event_enabled(&self, event: &Event<'_>, context: &Context<'_, S>) -> bool {
        Filter::event_enabled(&*self.filter(), event, context)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Filter::<S>::max_level_hint(&*self.filter())
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        Filter::on_new_span(&*self.filter(), attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        Filter::on_record(&*self.filter(), id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        Filter::on_enter(&*self.filter(), id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        Filter::on_exit(&*self.filter(), id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        Filter::on_close(&*self.filter(), id, context);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing_subscriber::layer::{Layer, SubscriberExt};

    use super::*;

    #[test]
    fn the_most_exact_level_holds_and_a_change_covers_what_lies_below() {
        let levels = Levels::new("warn,tailwater::rest=debug");
        let level = |name: &str| levels.get(name).map(|level| level.level);
        assert_eq!(level(ROOT), Some(LevelFilter::WARN));
        assert_eq!(level("tailwater::rest"), Some(LevelFilter::DEBUG));
        assert_eq!(level("no.such"), None);
        let changed = levels.set("tailwater", LevelFilter::TRACE).unwrap();
        assert_eq!(changed, ["tailwater", "tailwater::rest"]);
        assert_eq!(level("tailwater::rest"), Some(LevelFilter::TRACE));
        assert!(levels.get("tailwater").unwrap().set_at.is_some() && levels.get(ROOT).unwrap().set_at.is_none());
        assert_eq!(levels.set(ROOT, LevelFilter::OFF).unwrap(), ["root", "tailwater", "tailwater::rest"]);
        for wrong in ["", "a,b", "a=b", "[span]", "a b", "ü"] {
            assert!(levels.set(wrong, LevelFilter::INFO).is_err(), "{wrong}");
        }
    }

    struct Count(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_change_takes_effect_at_once() {
        let levels = Levels::new("info");
        let count = Arc::new(AtomicUsize::new(0));
        let subscriber = tracing_subscriber::registry().with(Count(Arc::clone(&count)).with_filter(levels.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let log = || tracing::debug!(target: "levels_test::inner", "seen?");
            log();
            assert_eq!(count.swap(0, Ordering::Relaxed), 0);
            tracing::info!(target: "levels_test::inner", "seen");
            assert_eq!(count.swap(0, Ordering::Relaxed), 1);
            assert!(levels.all().contains_key("levels_test::inner"));
            levels.set("levels_test", LevelFilter::DEBUG).unwrap();
            log();
            assert_eq!(count.load(Ordering::Relaxed), 1);
            levels.set(ROOT, LevelFilter::ERROR).unwrap();
            log();
            assert_eq!(count.load(Ordering::Relaxed), 1);
        });
    }
}
