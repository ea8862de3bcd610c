//! How many tables a connector may capture (`guardrail.collections.*`): a filter that a new schema has widened is noticed when the source starts.

use tailwater_api::config::ConfigReader;
use tailwater_api::{Error, ErrorKind, Result};

/// The limit that the configuration sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guardrail {
    most: usize,
    fails: bool,
}

impl Guardrail {
    /// `None` where there is no limit.
    pub(crate) fn read(reader: &mut ConfigReader<'_>) -> Option<Self> {
        let fails = reader.choice("guardrail.collections.limit.action", &[("warn", false), ("fail", true)]);
        let most = reader.number("guardrail.collections.max");
        (most > 0).then_some(Self { most, fails })
    }

    /// Judges the number of captured tables: warns, or fails, if they are too many.
    ///
    /// # Errors
    /// `misconfigured` where the configuration asks for it.
    pub fn judge(self, captured: usize) -> Result<()> {
        if captured <= self.most {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Misconfigured, format!("capture {captured} tables"))
            .because(format!("guardrail.collections.max allows {}", self.most))
            .mend("let table.include.list choose fewer tables, or set guardrail.collections.max higher");
        if self.fails {
            return Err(error);
        }
        tracing::warn!(
            captured,
            most = self.most,
            error.mend = error.remedy(),
            "more tables are captured than guardrail.collections.max allows"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_limit_that_is_passed_and_fails_is_an_error() {
        let limit = |fails| Guardrail { most: 2, fails };
        assert!(limit(true).judge(2).is_ok());
        assert!(limit(false).judge(3).is_ok());
        let error = limit(true).judge(3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(error.to_string().contains("capture 3 tables") && error.to_string().contains("allows 2"), "{error}");
    }
}
