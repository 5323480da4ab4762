//! The loops that measure the limits of a core: they read every byte, and count their operations.

use moelten_quant::Reading;

use crate::common::tiers;

#[test]
fn every_tier_reads_every_byte() {
    for kernels in tiers() {
        let isa = kernels.isa();
        // Streams of the second length would be a multiple of 4096 bytes apart; there a byte of every line.
        let lengths = [(64 * 129 + 5, 1), (64 * 1024, 61)];
        for (order, (len, every)) in
            Reading::ALL.into_iter().flat_map(|order| lengths.map(|length| (order, length)))
        {
            let mut data = vec![0_u8; len];
            let zero = kernels.read_through(&data, order);
            for at in (0..len).step_by(every) {
                data[at] = 1;
                assert_ne!(kernels.read_through(&data, order), zero, "{isa}, {order:?}: byte {at} of {len}");
                data[at] = 0;
            }
            assert_eq!(kernels.read_through(&[], order), 0, "{isa}");
        }
    }
}

#[test]
fn every_tier_multiplies_and_counts() {
    for kernels in tiers() {
        let isa = kernels.isa();
        assert_eq!(kernels.multiply_int8(0), 0, "{isa}");
        assert!(kernels.multiply_int8(1) > 0, "{isa}");
        assert_eq!(kernels.multiply_int8(10), 10 * kernels.multiply_int8(1), "{isa}");
    }
}
