//! Sizes as people write them: `4`, `64KiB`, `1MB`.
//!
//! `stress` includes this file by its path (`stress/src/main.rs`).

/// Units by suffix. Decimal ones are powers of 1000, binary ones (`Ki`, `Mi`, `Gi`) of 1024.
const UNITS: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// Bytes of a size such as `1MiB`; a plain number is bytes.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let (digits, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1));
    let count: u64 = digits
        .trim()
        .parse()
        .map_err(|_| "a size is a number and B, KB, MB, GB, KiB, MiB or GiB".to_owned())?;
    count
        .checked_mul(unit)
        .ok_or_else(|| "more bytes than there are".to_owned())
}

/// `bytes` with the largest binary unit that divides it.
pub(crate) fn format(bytes: u64) -> String {
    let unit = UNITS[..3]
        .iter()
        .rev()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    match unit {
        Some((suffix, unit)) => format!("{} {suffix}", bytes / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        assert_eq!(parse("4"), Ok(4));
        assert_eq!(parse("7B"), Ok(7));
        assert_eq!(parse("64KiB"), Ok(65_536));
        assert_eq!(parse("1MiB"), Ok(1 << 20));
        assert_eq!(parse("1GB"), Ok(1_000_000_000));
        assert_eq!(parse("2 GiB"), Ok(2 << 30));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "MiB",
            "1.5MiB",
            "-1",
            "1TiB",
            "99999999999GiB",
            "1 MiB x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_in_the_unit_that_divides_them() {
        assert_eq!(format(4), "4 B");
        assert_eq!(format(1 << 20), "1 MiB");
        assert_eq!(format(3 << 29), "1536 MiB");
        assert_eq!(format(1_000_000), "1000000 B");
    }
}
