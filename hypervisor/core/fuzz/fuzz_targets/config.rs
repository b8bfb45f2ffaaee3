#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloister_core_fuzz::config(data));
