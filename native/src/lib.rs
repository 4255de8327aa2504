//! The front door of Embercache: gRPC listeners and the hot tier, on threads of their own.
//!
//! Calls whose answers are in memory never reach the interpreter; all else is handed to the gRPC
//! server in Python behind it. What Python sees of it is told in `embercache_native.pyi`.

use pyo3::prelude::*;

pub mod answers;
pub mod body;
pub mod callers;
pub mod front;
pub mod hot;
pub mod relay;
pub mod tls;
pub mod unwritten;

/// The module as Python imports it.
#[pymodule]
mod embercache_native {
    #[pymodule_export]
    use crate::answers::{Answer, Cell, Tally};
    #[pymodule_export]
    use crate::front::Front;
    #[pymodule_export]
    use crate::hot::{HotCounters, HotEntry, HotTier};

    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "it is what Python calls it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    const ENTRY_OVERHEAD_BYTES: usize = crate::hot::ENTRY_OVERHEAD_BYTES;
}
