//! "Did you mean": the nearest of the known words.

/// The word of `known` that `word` was probably meant to be: few edits away for its length.
pub(super) fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any name here: not a slip, and the distance costs the product of the lengths.
    if word.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let wanted = plain(word);
    let allowed = (wanted.chars().count() / 3).clamp(1, 3);
    let near = known.filter_map(|candidate| {
        let distance = distance(&wanted, &plain(candidate));
        // "timeouts" for "timeout" is near; "rise" for "fall" is not, whatever its length.
        (distance <= allowed && distance < candidate.chars().count())
            .then_some((distance, candidate))
    });
    near.min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_word() {
        let known = [
            "timeout",
            "upstream",
            "slow-start",
            "rise",
            "fall",
            "max-requests",
        ];
        let find = |word| closest(word, known.into_iter());
        assert_eq!(find("timeot"), Some("timeout"));
        assert_eq!(find("upstraem"), Some("upstream"));
        assert_eq!(find("slow_start"), Some("slow-start"));
        assert_eq!(find("Max-Request"), Some("max-requests"));
        assert_eq!(find("frobnicate"), None);
        assert_eq!(find("up"), None);
        assert_eq!(find(&"x".repeat(100_000)), None);
    }
}
