//! The loops that measure the limits of a core: they read every byte, and count their operations.

use crate::common::tiers;

#[test]
fn every_tier_reads_every_byte() {
    for kernels in tiers() {
        let isa = kernels.isa();
        let mut data = vec![0_u8; 64 * 129 + 5];
        let zero = kernels.read_through(&data);
        for at in 0..data.len() {
            data[at] = 1;
            assert_ne!(kernels.read_through(&data), zero, "{isa}: byte {at} of {}", data.len());
            data[at] = 0;
        }
        assert_eq!(kernels.read_through(&[]), 0, "{isa}");
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
