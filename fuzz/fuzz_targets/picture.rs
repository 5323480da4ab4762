//! Files of images: any bytes are read or refused; what is read gives a number for every pixel.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moelten_fuzz::{assert_clean, scratch};
use moelten_loader::fuzzing::picture;

fuzz_target!(|bytes: &[u8]| {
    let folder = scratch();
    let path = folder.path().join("a.png");
    std::fs::write(&path, bytes).unwrap();
    match picture(&path) {
        Ok(numbers) => {
            assert_eq!(numbers.len(), 3 * 16 * 16);
            // Bytes become numbers from -1 to 1.
            assert!(numbers.iter().all(|x| (-1.0..=1.0).contains(x)), "{numbers:?}");
        }
        Err(error) => assert_clean(&error.to_string()),
    }
});
