//! The order of `java.util.HashMap` (OpenJDK 17), in which Debezium writes what it holds in maps and sets, so that texts are equal.
//!
//! An entry's bucket is the hash of its key, reduced to the number of buckets, which is 16 at first and doubles whenever they are
//! filled by more than three quarters. Entries of one bucket keep the order in which they came.

/// Sorts entries of different texts as a map or set has them to which they are added one after another.
pub fn sort<T>(entries: &mut [T], text: impl Fn(&T) -> &str) {
    let last = buckets(entries.len()) - 1;
    entries.sort_by_key(|entry| hash(text(entry)) & last);
}

/// `String.hashCode`, spread as `HashMap` spreads it.
fn hash(text: &str) -> u32 {
    let hash = text.encode_utf16().fold(0_u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    hash ^ (hash >> 16)
}

fn buckets(entries: usize) -> u32 {
    let mut buckets = 16_u32;
    while entries as u64 * 4 > u64::from(buckets) * 3 && buckets < 1 << 30 {
        buckets *= 2;
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_and_buckets_are_those_of_java() {
        assert_eq!(hash(""), 0);
        assert_eq!(hash("a"), 97);
        assert_eq!(hash("hello"), 99_162_322 ^ (99_162_322 >> 16));
        assert_eq!((buckets(12), buckets(13), buckets(25)), (16, 32, 64));
    }

    #[test]
    fn texts_stand_as_in_the_recorded_cases() {
        let mut names = ["public.a", "public.b", "public.c"];
        sort(&mut names, |name| name);
        assert_eq!(names, ["public.c", "public.a", "public.b"]);
    }
}
