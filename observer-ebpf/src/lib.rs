//! The kernel side, and the contract both sides compile.
//!
//! For the host this crate is plain data: the record layouts ([`abi`]), the kernel fields the programs follow
//! ([`field`]) and the declarations of the probes ([`probes::ALL`]). For `target_arch = "bpf"` it also holds the
//! programs. A probe is one file under `probes/`: its documentation, declaration and program together.
#![no_std]
// Inline assembly for BPF is not stable yet; it is used for one instruction, see `maps::add`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod abi;
pub mod field;
pub mod probe;
pub mod probes;

#[cfg(target_arch = "bpf")]
pub mod curve;
#[cfg(target_arch = "bpf")]
pub mod maps;
#[cfg(target_arch = "bpf")]
pub mod walk;
