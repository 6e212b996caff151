//! Amounts as people write them.

/// Bytes: `512m`, `1.5g`, `64MiB`, `100`: a number, and a unit of 1024 each; `-1` is no limit.
#[must_use]
pub fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &lower[number.len()..];
    let unit = unit.strip_suffix('b').unwrap_or(unit);
    let unit = unit.strip_suffix('i').unwrap_or(unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let number = number.strip_suffix(' ').unwrap_or(number);
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    match number.parse::<i64>() {
        Ok(whole) => whole.checked_mul(1 << shift),
        Err(_) => {
            let value = number.parse::<f64>().ok()? * (1_u64 << shift) as f64;
            (value < i64::MAX as f64 && number.contains('.') && !number.contains('e')).then_some(value as i64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn amounts_of_memory_have_binary_units() {
        for (text, expected) in [
            ("67108864", Some(67_108_864)),
            ("512m", Some(512 << 20)),
            ("1.5G", Some(3 << 29)),
            ("64MiB", Some(64 << 20)),
            ("64 kb", Some(64 << 10)),
            ("0", Some(0)),
            ("7b", Some(7)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
        ] {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
        for text in
            ["", "m", "-2", "-5m", "1x", "1mm", "1 k b", "9223372036854775808", "99999999p", "1e3", ".5g", "nan"]
        {
            assert_eq!(bytes(text), None, "{text:?}");
        }
    }
}
