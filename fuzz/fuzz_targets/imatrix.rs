//! Importance files of both kinds: any bytes are read or refused; what is read gives finite importance for
//! every role.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use moelten_loader::imatrix::ImportanceFile;
use moelten_loader::io::{FileBytes, Memory};
use moelten_loader::tensors::roles::{GGUF_NAMES, Role};

fuzz_target!(|bytes: &[u8]| {
    let mut memory = Memory::zeroed(bytes.len()).unwrap();
    memory.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    let file = match ImportanceFile::read(FileBytes::generated(Path::new("f"), memory).unwrap()) {
        Ok(file) => file,
        Err(error) => {
            assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
            return;
        }
    };
    for rule in GGUF_NAMES {
        for (expert, cols) in [(None, 1), (Some(0), 2), (Some(1), 3), (Some(2), 1), (None, 0)] {
            let role = match rule.role {
                Role::Layer(_, tensor) => Role::Layer(expert.unwrap_or(0), tensor),
                top => top,
            };
            match file.importance(role, expert, cols) {
                Ok(Some(importance)) => {
                    assert_eq!(importance.len(), cols);
                    assert!(importance.iter().all(|x| x.is_finite() && *x >= 0.0), "{importance:?}");
                    assert!(importance.iter().any(|x| *x > 0.0), "{importance:?}");
                }
                Ok(None) => {}
                Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
            }
        }
    }
});
