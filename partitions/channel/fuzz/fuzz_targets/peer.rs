#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloister_channel_fuzz::peer(data));
