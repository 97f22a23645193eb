#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| observer_fuzz::why_answer(bytes));
