//! The adapters of this machine, and which of them is used. It must not know what is computed on one.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::drivers;
use crate::error::GpuError;
use crate::quiet::quietly;

/// What an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterKind {
    /// A card with memory of its own.
    Discrete,
    /// Part of the processor: its memory is the RAM.
    Integrated,
    /// A driver that computes on the CPU.
    Software,
    /// Virtual, or not said.
    Other,
}

impl fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Software => "software",
            Self::Other => "other",
        })
    }
}

/// Which adapter to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The first discrete one.
    Auto,
    /// The first whose name contains this, in any case.
    Named(String),
}

/// An adapter that a driver offers.
#[derive(Debug, Clone)]
pub struct Adapter {
    pub(crate) inner: wgpu::Adapter,
    /// What the driver calls it.
    pub name: String,
    /// Whether it has memory of its own.
    pub kind: AdapterKind,
    /// The interface: `vulkan`, `metal`, `dx12`.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
}

/// The drivers' budget that allocations may take, in percent.
const OF_THE_BUDGET: u8 = 85;

/// All adapters, the discrete ones first. Without a driver or a loader there are none.
pub fn adapters() -> Vec<Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    descriptor.flags = wgpu::InstanceFlags::empty();
    descriptor.memory_budget_thresholds.for_resource_creation = Some(OF_THE_BUDGET);
    let found = quietly(|| {
        let instance = wgpu::Instance::new(descriptor);
        now(instance.enumerate_adapters(wgpu::Backends::PRIMARY)).unwrap_or_default()
    });
    let mut found: Vec<Adapter> = found.into_iter().map(Adapter::of).collect();
    found.sort_by_key(|adapter| adapter.kind != AdapterKind::Discrete);
    found
}

/// The adapter that is chosen; `None` where there is no discrete one and none was named.
///
/// # Errors
/// [`GpuError::NoSuch`].
pub fn choose(choice: &Choice) -> Result<Option<Adapter>, GpuError> {
    if *choice == Choice::Auto && !drivers::may_be_here() {
        return Ok(None);
    }
    let found = adapters();
    match choice {
        Choice::Auto => Ok(found.into_iter().find(|adapter| adapter.kind == AdapterKind::Discrete)),
        Choice::Named(name) => {
            let wanted = name.to_lowercase();
            let names: Vec<&str> = found.iter().map(|adapter| adapter.name.as_str()).collect();
            let all = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let it = found.iter().find(|adapter| adapter.name.to_lowercase().contains(&wanted)).cloned();
            it.map(Some).ok_or(GpuError::NoSuch { name: name.clone(), found: all })
        }
    }
}

impl Adapter {
    fn of(inner: wgpu::Adapter) -> Self {
        let info = inner.get_info();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
            wgpu::DeviceType::Cpu => AdapterKind::Software,
            wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => AdapterKind::Other,
        };
        let driver = [info.driver, info.driver_info].join(" ").trim().to_owned();
        Self { inner, name: info.name, kind, backend: info.backend.to_string(), driver }
    }
}

/// The result of a future that is ready at once, as all futures of wgpu are outside browsers.
pub(crate) fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
