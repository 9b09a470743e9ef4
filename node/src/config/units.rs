//! Durations and sizes as people write them: `90s`, `14d`, `64 MiB`. Whole numbers only.

use std::time::Duration;

/// A whole number with `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// What a duration looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60 * 1000),
        "h" => Some(60 * 60 * 1000),
        "d" => Some(24 * 60 * 60 * 1000),
        _ => None,
    };
    let ms = factor.and_then(|factor: u64| number.parse::<u64>().ok()?.checked_mul(factor));
    ms.map(Duration::from_millis).ok_or_else(|| {
        format!("{text:?} is not a duration: use a whole number with ms, s, m, h or d, as in 90s or 14d")
    })
}

/// A number of bytes, alone or with `B`, `KiB`, `MiB`, `GiB`, `TiB`, `kB`, `MB`, `GB` or `TB`.
///
/// # Errors
/// What a size looks like.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit.trim_start() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        "kB" => Some(1000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "TB" => Some(1_000_000_000_000),
        _ => None,
    };
    factor.and_then(|factor: u64| number.parse::<u64>().ok()?.checked_mul(factor)).ok_or_else(|| {
        format!("{text:?} is not a size: use a whole number of bytes, or one with a unit as in \"64 MiB\"")
    })
}

/// A whole number of things.
///
/// # Errors
/// What a number looks like.
pub fn count(text: &str) -> Result<u64, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or_else(|| format!("{text:?} is not a number: use digits only, as in 100000"))
}

fn split(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_a_unit() {
        let ms = |text| duration(text).map(|duration| duration.as_millis());
        assert_eq!(ms("0s"), Ok(0));
        assert_eq!(ms("250ms"), Ok(250));
        assert_eq!(ms("90s"), Ok(90_000));
        assert_eq!(ms("5m"), Ok(300_000));
        assert_eq!(ms("24h"), Ok(86_400_000));
        assert_eq!(ms("14d"), Ok(1_209_600_000));
        for wrong in ["", "5", "s", "1.5s", "-1s", "1 s", "1w", "5S", "99999999999999999d", "٣s"] {
            assert!(ms(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_may_have_a_unit() {
        assert_eq!(bytes("1000"), Ok(1000));
        assert_eq!(bytes("64 MiB"), Ok(64 << 20));
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("2 GB"), Ok(2_000_000_000));
        assert_eq!(count("1000"), Ok(1000));
        assert!(count("64 MiB").is_err() && count("+1").is_err() && count("").is_err());
        for wrong in ["", "MiB", "1.5 GiB", "64 mib", "99999999999 TiB"] {
            assert!(bytes(wrong).is_err(), "{wrong:?}");
        }
    }
}
