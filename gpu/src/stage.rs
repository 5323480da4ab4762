//! Pipelines and what they bind. It must not know experts.

use crate::device::Gpu;
use crate::error::GpuError;
use crate::shader::Job;

/// The layouts that all pipelines share: the slab, then the job.
#[derive(Debug)]
pub(crate) struct Layouts {
    slab: wgpu::BindGroupLayout,
    job: wgpu::BindGroupLayout,
    all: wgpu::PipelineLayout,
}

/// A pipeline with its job.
#[derive(Debug)]
pub(crate) struct Stage {
    pub pipeline: wgpu::ComputePipeline,
    pub bind: wgpu::BindGroup,
    /// Workgroups for each slot.
    pub groups: u32,
}

impl Layouts {
    pub fn new(gpu: &Gpu) -> Self {
        let entry = |binding: u32, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
        let layout = |entries: &[wgpu::BindGroupLayoutEntry]| {
            gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries })
        };
        let uniform = wgpu::BufferBindingType::Uniform;
        let slab = layout(&[entry(0, storage(true)), entry(1, uniform)]);
        let job =
            [entry(0, storage(true)), entry(1, storage(false)), entry(2, storage(true)), entry(3, uniform)];
        let job = layout(&job);
        let all = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&slab), Some(&job)],
            immediate_size: 0,
        });
        Self { slab, job, all }
    }

    pub fn bind_slab(&self, gpu: &Gpu, words: &wgpu::Buffer, number: &wgpu::Buffer) -> wgpu::BindGroup {
        bind(gpu, &self.slab, &[words, number])
    }

    /// Binds input, output, table of slots and parameters.
    pub fn bind_job(&self, gpu: &Gpu, [x, o, slots]: [&wgpu::Buffer; 3], job: &Job) -> wgpu::BindGroup {
        let words = job.words();
        let uniform =
            gpu.buffer(4 * words.len() as u64, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
        gpu.queue.write_buffer(&uniform, 0, &little_endian(&words));
        bind(gpu, &self.job, &[x, o, slots, &uniform])
    }

    /// Compiles a shader.
    ///
    /// # Errors
    /// When the driver refuses it.
    pub fn pipeline(
        &self,
        gpu: &Gpu,
        source: String,
        entry: &str,
    ) -> Result<wgpu::ComputePipeline, GpuError> {
        gpu.scoped(|| {
            let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: None,
                source: wgpu::ShaderSource::Wgsl(source.into()),
            });
            gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: Some(&self.all),
                module: &module,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            })
        })
    }
}

/// Pipelines by their source: shapes that differ in parameters alone share one.
#[derive(Debug, Default)]
pub(crate) struct Pipelines(Vec<(String, wgpu::ComputePipeline)>);

impl Pipelines {
    /// The pipeline of a shader, compiled the first time.
    ///
    /// # Errors
    /// When the driver refuses it.
    pub fn get(
        &mut self,
        gpu: &Gpu,
        layouts: &Layouts,
        source: String,
        entry: &str,
    ) -> Result<wgpu::ComputePipeline, GpuError> {
        if let Some((_, known)) = self.0.iter().find(|(known, _)| *known == source) {
            return Ok(known.clone());
        }
        let pipeline = layouts.pipeline(gpu, source.clone(), entry)?;
        self.0.push((source, pipeline.clone()));
        Ok(pipeline)
    }
}

fn bind(gpu: &Gpu, layout: &wgpu::BindGroupLayout, buffers: &[&wgpu::Buffer]) -> wgpu::BindGroup {
    let buffers = (0..).zip(buffers.iter().copied());
    let entries: Vec<_> = buffers
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}

/// Words as the bytes that devices read.
pub(crate) fn little_endian(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
