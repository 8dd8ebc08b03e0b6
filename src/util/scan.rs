//! Bytes of a head looked at sixteen at a time.
//!
//! Every byte of every head is judged: is it a control byte, is it part of a name. One by one that
//! is most of what a request costs. [`Lanes`] asks a question of sixteen bytes and answers with a
//! mask, bit 0 for the first of them. On x86-64 this is SSE2, which every such processor has;
//! elsewhere it is arithmetic on two words. The tests hold one against the other.

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
pub(crate) use portable::Lanes;
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
pub(crate) use sse2::Lanes;

/// `rest` from the first byte on that is below 0x20 or equal to 0x7F. It must be the end of
/// `bytes`: where fewer than sixteen are left, some that come before are looked at once more.
#[inline]
pub(crate) fn from_control<'a>(bytes: &[u8], rest: &'a [u8]) -> &'a [u8] {
    from_up_to(bytes, rest, 0x1f)
}

/// The same for a space as well.
#[inline]
pub(crate) fn from_space_or_control<'a>(bytes: &[u8], rest: &'a [u8]) -> &'a [u8] {
    from_up_to(bytes, rest, b' ')
}

#[inline(always)]
fn from_up_to<'a>(bytes: &[u8], mut rest: &'a [u8], last: u8) -> &'a [u8] {
    debug_assert!(bytes.ends_with(rest), "the rest is the end");
    while let Some((chunk, behind)) = rest.split_first_chunk() {
        let hits = Lanes::new(chunk).up_to(last);
        if hits != 0 {
            return rest
                .get(hits.trailing_zeros() as usize..)
                .unwrap_or_default();
        }
        rest = behind;
    }
    let hit = match bytes.last_chunk() {
        Some(chunk) => {
            let hits = Lanes::new(chunk).up_to(last) >> (16 - rest.len());
            (hits != 0).then_some(hits.trailing_zeros() as usize)
        }
        None => rest.iter().position(|&byte| byte <= last || byte == 0x7f),
    };
    hit.and_then(|hit| rest.get(hit..)).unwrap_or_default()
}

/// The first sixteen bytes, how many they are, and what follows. Where there are fewer, zeros stand
/// for the rest.
#[inline(always)]
pub(crate) fn split_piece(bytes: &[u8]) -> (Lanes, usize, &[u8]) {
    match bytes.split_first_chunk() {
        Some((chunk, behind)) => (Lanes::new(chunk), 16, behind),
        None => (Lanes::from_halves(halves(bytes)), bytes.len(), &[]),
    }
}

/// At most sixteen bytes with zeros behind them. Loads that overlap: to copy so few bytes takes
/// longer than what is asked of them.
#[inline(always)]
fn halves(bytes: &[u8]) -> [u64; 2] {
    let bits_beyond = |width: usize| 8 * (2 * width).saturating_sub(bytes.len()) as u32;
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let high = u64::from_le_bytes(*last).checked_shr(bits_beyond(8));
        return [u64::from_le_bytes(*first), high.unwrap_or(0)];
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let high = u32::from_le_bytes(*last).checked_shr(bits_beyond(4));
        let low = u32::from_le_bytes(*first);
        return [u64::from(high.unwrap_or(0)) << 32 | u64::from(low), 0];
    }
    let add = |word: u64, byte: &u8| word << 8 | u64::from(*byte);
    [bytes.iter().rev().fold(0, add), 0]
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod sse2 {
    use safe_arch::{
        bitand_m128i, bitor_m128i, cmp_eq_mask_i8_m128i, load_unaligned_m128i, m128i, min_u8_m128i,
        move_mask_i8_m128i, set_i64_m128i, set_splat_i8_m128i, shr_imm_u16_m128i, sub_i8_m128i,
    };

    /// Sixteen bytes.
    #[derive(Clone, Copy)]
    pub(crate) struct Lanes(m128i);

    impl Lanes {
        #[inline(always)]
        pub(crate) fn new(bytes: &[u8; 16]) -> Self {
            Lanes(load_unaligned_m128i(bytes))
        }

        /// The bytes of the first in little-endian order, then those of the second.
        #[inline(always)]
        pub(crate) fn from_halves(halves: [u64; 2]) -> Self {
            Lanes(set_i64_m128i(halves[1] as i64, halves[0] as i64))
        }

        /// Which are this byte.
        #[inline(always)]
        pub(crate) fn equal(self, byte: u8) -> u32 {
            mask(cmp_eq_mask_i8_m128i(self.0, all(byte)))
        }

        /// Which are at most `last`, or 0x7F.
        #[inline(always)]
        pub(crate) fn up_to(self, last: u8) -> u32 {
            let delete = cmp_eq_mask_i8_m128i(self.0, all(0x7f));
            mask(bitor_m128i(at_most(self.0, last), delete))
        }

        /// Which are letters, digits or `-`: what nearly all tokens consist of.
        #[inline(always)]
        pub(crate) fn plain(self) -> u32 {
            // The bit 0x20 makes letters lower case and nothing else a letter.
            let letter = at_most(sub_i8_m128i(bitor_m128i(self.0, all(0x20)), all(b'a')), 25);
            let digit = at_most(sub_i8_m128i(self.0, all(b'0')), 9);
            let dash = cmp_eq_mask_i8_m128i(self.0, all(b'-'));
            mask(bitor_m128i(bitor_m128i(letter, digit), dash))
        }

        /// Which are upper-case letters.
        #[inline(always)]
        pub(crate) fn upper(self) -> u32 {
            mask(at_most(sub_i8_m128i(self.0, all(b'A')), 25))
        }

        /// Which are no ASCII.
        #[inline(always)]
        pub(crate) fn high(self) -> u32 {
            mask(self.0)
        }

        /// Which are those of `lower` but for the case of letters; the bit 0x40 of its bytes must
        /// mean a letter.
        #[inline(always)]
        pub(crate) fn same_in_any_case(self, lower: &[u8; 16]) -> u32 {
            let lower = Lanes::new(lower).0;
            // 0x20 where the byte wanted is a letter: elsewhere `\r` must not become `-`.
            let case = shr_imm_u16_m128i::<1>(bitand_m128i(lower, all(0x40)));
            mask(cmp_eq_mask_i8_m128i(bitor_m128i(self.0, case), lower))
        }
    }

    #[inline(always)]
    fn all(byte: u8) -> m128i {
        set_splat_i8_m128i(byte as i8)
    }

    #[inline(always)]
    fn at_most(bytes: m128i, last: u8) -> m128i {
        cmp_eq_mask_i8_m128i(min_u8_m128i(bytes, all(last)), bytes)
    }

    #[inline(always)]
    fn mask(bytes: m128i) -> u32 {
        move_mask_i8_m128i(bytes) as u32
    }
}

#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
mod portable {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;

    /// Sixteen bytes.
    #[derive(Clone, Copy)]
    pub(crate) struct Lanes([u64; 2]);

    impl Lanes {
        pub(crate) fn new(bytes: &[u8; 16]) -> Self {
            let number = u128::from_le_bytes(*bytes);
            Lanes::from_halves([number as u64, (number >> 64) as u64])
        }

        pub(crate) fn from_halves(halves: [u64; 2]) -> Self {
            Lanes(halves)
        }

        pub(crate) fn equal(self, byte: u8) -> u32 {
            self.mask(|word| zero(word ^ (ONES * u64::from(byte))))
        }

        pub(crate) fn up_to(self, last: u8) -> u32 {
            self.mask(|word| at_most(word, last) | zero(word ^ (ONES * 0x7f)))
        }

        pub(crate) fn plain(self) -> u32 {
            self.mask(|word| {
                let lower = word | (ONES * 0x20);
                let letter = at_most(lower, b'z') & !at_most(lower, b'a' - 1);
                let digit = at_most(word, b'9') & !at_most(word, b'0' - 1);
                letter | digit | zero(word ^ (ONES * u64::from(b'-')))
            })
        }

        pub(crate) fn upper(self) -> u32 {
            self.mask(|word| at_most(word, b'Z') & !at_most(word, b'A' - 1))
        }

        pub(crate) fn high(self) -> u32 {
            self.mask(|word| word)
        }

        pub(crate) fn same_in_any_case(self, lower: &[u8; 16]) -> u32 {
            let Lanes([low, high]) = Lanes::new(lower);
            let case = |lower: u64| (lower & (ONES * 0x40)) >> 1;
            let different = [
                (self.0[0] | case(low)) ^ low,
                (self.0[1] | case(high)) ^ high,
            ];
            Lanes(different).mask(zero)
        }

        /// One bit for each byte whose high bit the question sets.
        fn mask(self, question: impl Fn(u64) -> u64) -> u32 {
            // The factor brings the eight high bits together in the uppermost byte.
            let gather = |word: u64| (((word & HIGH) >> 7).wrapping_mul(GATHER) >> 56) as u32;
            gather(question(self.0[0])) | gather(question(self.0[1])) << 8
        }
    }

    const GATHER: u64 = 0x0102_0408_1020_4080;

    /// High bits of the bytes that are 0, exact for each byte.
    fn zero(word: u64) -> u64 {
        !(((word & !HIGH) + !HIGH) | word) & HIGH
    }

    /// High bits of the bytes that are at most `last`, which is below 0x80.
    fn at_most(word: u64, last: u8) -> u64 {
        !(((word & !HIGH) + ONES * u64::from(0x7f - last)) | word) & HIGH
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masks(bytes: &[u8; 16], lower: &[u8; 16]) -> [[u32; 7]; 2] {
        let (ours, portable) = (Lanes::new(bytes), portable::Lanes::new(bytes));
        [
            [
                ours.equal(b':'),
                ours.up_to(0x1f),
                ours.up_to(b' '),
                ours.plain(),
                ours.upper(),
                ours.high(),
                ours.same_in_any_case(lower),
            ],
            [
                portable.equal(b':'),
                portable.up_to(0x1f),
                portable.up_to(b' '),
                portable.plain(),
                portable.upper(),
                portable.high(),
                portable.same_in_any_case(lower),
            ],
        ]
    }

    /// One byte at a time, as the questions are worded.
    fn expected(bytes: &[u8; 16], lower: &[u8; 16]) -> [u32; 7] {
        let mask = |question: &dyn Fn(u8, u8) -> bool| {
            let pairs = bytes.iter().zip(lower).enumerate();
            pairs.fold(0, |mask, (lane, (&byte, &lower))| {
                mask | u32::from(question(byte, lower)) << lane
            })
        };
        [
            mask(&|byte, _| byte == b':'),
            mask(&|byte, _| byte < 0x20 || byte == 0x7f),
            mask(&|byte, _| byte <= 0x20 || byte == 0x7f),
            mask(&|byte, _| byte.is_ascii_alphanumeric() || byte == b'-'),
            mask(&|byte, _| byte.is_ascii_uppercase()),
            mask(&|byte, _| !byte.is_ascii()),
            mask(&|byte, lower| byte.to_ascii_lowercase() == lower),
        ]
    }

    #[test]
    fn every_byte_is_judged_the_same_in_every_lane() {
        for lane in 0..16 {
            for byte in 0..=255 {
                for other in [b'a', 0, b':', 0xff, b'\r'] {
                    let mut bytes = [other; 16];
                    bytes[lane] = byte;
                    for lower in [[b'a'; 16], [b'-'; 16], [b':'; 16], [b'9'; 16]] {
                        let expected = expected(&bytes, &lower);
                        assert_eq!(masks(&bytes, &lower), [expected; 2], "{bytes:?} {lower:?}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn all_ways_of_looking_agree(
            bytes in any::<[u8; 16]>(),
            lower in prop::array::uniform16("[a-z0-9:-]").prop_map(|l| l.map(|l| l.as_bytes()[0])),
            copied in any::<u16>(),
        ) {
            let mut bytes = bytes;
            for lane in (0..16).filter(|lane| copied >> lane & 1 == 1) {
                bytes[lane] = lower[lane].to_ascii_uppercase();
            }
            prop_assert_eq!(masks(&bytes, &lower), [expected(&bytes, &lower); 2]);
        }

        #[test]
        fn pieces_are_the_bytes_and_zeros(
            bytes in prop::collection::vec(1u8.., 0..50), wanted in 1u8..,
        ) {
            let (mut rest, mut seen, mut hits) = (&bytes[..], 0, Vec::new());
            while !rest.is_empty() {
                let (lanes, length, behind) = split_piece(rest);
                let padding = lanes.equal(0);
                prop_assert_eq!(padding, 0xffff & !((1 << length) - 1), "only behind the end");
                let mask = lanes.equal(wanted) & !padding;
                hits.extend((0..length).filter(|lane| mask >> lane & 1 == 1).map(|lane| seen + lane));
                seen += length;
                rest = behind;
            }
            prop_assert_eq!(seen, bytes.len());
            let expected = bytes.iter().enumerate().filter(|(_, byte)| **byte == wanted);
            prop_assert_eq!(hits, expected.map(|(at, _)| at).collect::<Vec<_>>());
        }

        #[test]
        fn what_is_found_is_the_first(
            bytes in prop::collection::vec(prop_oneof![20 => 0x20u8..0x7f, 1 => any::<u8>()], 0..70),
            from in 0usize..70,
        ) {
            let rest = &bytes[from.min(bytes.len())..];
            let naive = |last: u8| {
                let hit = rest.iter().position(|&byte| byte <= last || byte == 0x7f);
                hit.map_or(&[][..], |hit| &rest[hit..])
            };
            prop_assert_eq!(from_control(&bytes, rest), naive(0x1f));
            prop_assert_eq!(from_space_or_control(&bytes, rest), naive(b' '));
        }
    }
}
