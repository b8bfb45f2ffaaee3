#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloister_manifest_fuzz::text(data));
