//! The data directory: its lock, and the names of the journals' folders.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use tailwater_api::{Error, ErrorKind, Result};

use super::journal::io_error;

/// Name of the journal for records that no source sent. No connector can have it: it is empty.
pub(super) const OWN: &str = "";
/// Its folder. No name is escaped to it.
const OWN_FOLDER: &str = "%worker";
/// The longest name that file systems take.
const LONGEST: usize = 255;

/// Locks the data directory until the file is closed.
pub(super) fn lock(data_dir: &Path) -> Result<File> {
    let doing = || format!("lock the data directory {}", data_dir.display());
    std::fs::create_dir_all(data_dir).map_err(|error| io_error(doing(), error))?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(data_dir.join("lock"));
    let file = file.map_err(|error| io_error(doing(), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(ErrorKind::Conflict, doing())
            .because("another worker has it open")
            .mend("stop the other worker, or give this one a data.dir of its own")),
        Err(TryLockError::Error(error)) => Err(io_error(doing(), error)),
    }
}

/// The folder of a journal: letters, digits, `-`, `_` and inner dots stand for themselves, every other octet is `%XX`.
///
/// # Errors
/// `misconfigured` if the name is too long for a folder.
pub(super) fn of_name(name: &str) -> Result<String> {
    if name == OWN {
        return Ok(OWN_FOLDER.to_owned());
    }
    let mut folder = String::new();
    for (index, octet) in name.bytes().enumerate() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => folder.push(char::from(octet)),
            b'.' if index > 0 => folder.push('.'),
            _ => folder.push_str(&format!("%{octet:02X}")),
        }
    }
    if folder.len() > LONGEST {
        return Err(Error::new(ErrorKind::Misconfigured, format!("make a journal for the connector {name}"))
            .because(format!("its folder would have a name of {} octets, and {LONGEST} are allowed", folder.len()))
            .mend("give the connector a shorter name"));
    }
    Ok(folder)
}

/// The name of the journal in `folder`, if it is one.
pub(super) fn to_name(folder: &str) -> Option<String> {
    if folder == OWN_FOLDER {
        return Some(OWN.to_owned());
    }
    let mut octets = Vec::new();
    let mut rest = folder.bytes();
    while let Some(octet) = rest.next() {
        if octet == b'%' {
            let digits = [rest.next()?, rest.next()?];
            octets.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            octets.push(octet);
        }
    }
    let name = String::from_utf8(octets).ok()?;
    (of_name(&name).is_ok_and(|known| known == folder)).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_name_has_a_safe_folder_of_its_own(name in "\\PC{1,20}") {
            let folder = of_name(&name).unwrap();
            prop_assert!(!folder.contains('/') && !folder.starts_with('.') && folder != OWN_FOLDER, "{}", folder);
            prop_assert_eq!(to_name(&folder), Some(name));
        }
    }

    #[test]
    fn a_name_that_is_too_long_is_refused_and_the_worker_has_its_own() {
        assert_eq!(of_name(&"ü".repeat(50)).unwrap_err().kind(), ErrorKind::Misconfigured);
        assert_eq!(to_name(&of_name(OWN).unwrap()).unwrap(), OWN);
        assert_eq!(to_name("%zz"), None);
    }
}
