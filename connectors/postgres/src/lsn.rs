//! Log sequence numbers: places in the server's write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A place in the log, in bytes from its beginning. Written as PostgreSQL writes it: the upper and the lower 32 bits in
/// hexadecimal, `0/16B3748`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// `0/0`, which is no place of any log: the server says it, and is told it, where none is meant.
    pub const INVALID: Self = Self(0);

    /// The place `bytes` behind the beginning of the log.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes from the beginning of the log.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The text is no log sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidLsn(String);

impl fmt::Display for InvalidLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no log sequence number such as 0/16B3748", self.0)
    }
}

impl std::error::Error for InvalidLsn {}

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let half = |digits: &str| {
            let is_short = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_short.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        let halves = text.split_once('/').and_then(|(upper, lower)| Some((half(upper)?, half(lower)?)));
        halves.map(|(upper, lower)| Self(upper << 32 | lower)).ok_or_else(|| InvalidLsn(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_lsn_is_written_as_the_server_writes_it() {
        assert_eq!(Lsn::new(0x016B_3748).to_string(), "0/16B3748");
        assert_eq!(Lsn::new(0x0000_0002_0000_0001).to_string(), "2/1");
        for text in ["", "/", "0", "0/", "/0", "0/123456789", "g/0", "+1/0", "0/1/2", "0/ 1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn an_lsn_is_read_as_it_was_written(bytes in any::<u64>()) {
            prop_assert_eq!(Lsn::new(bytes).to_string().parse(), Ok(Lsn::new(bytes)));
        }
    }
}
