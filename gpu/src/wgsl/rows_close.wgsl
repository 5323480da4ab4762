// Rows of a matrix times one input, close to the definition and not equal: eight lanes share a row, each adds up every
// eighth block with the device's operations, and their sums are added as a tree.
const ROWS = 8u;
const LANES = 8u;
var<workgroup> values: array<u32, 64u * HALVES>;
var<workgroup> sums: array<f32, 64>;

@compute @workgroup_size(64)
fn rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let slot = slots[group.y];
    if (slot.y != slab.x) { return; }
    let row = group.x * ROWS + lane / LANES;
    let input = group.y * job.in_stride;
    var sum = 0.0;
    if (row < job.rows) {
        let bytes = slot.x + job.base + row * job.row_bytes;
        for (var block = lane % LANES; block < job.blocks; block += LANES) {
            let record = input + block * RECORD;
            block_values(lane * HALVES, bytes, block, record);
            let scale = bitcast<f32>(x[record + 8u]);
            for (var half = 0u; half < HALVES; half++) {
                sum = fma(bitcast<f32>(values[lane * HALVES + half]), scale, sum);
            }
        }
    }
    sums[lane] = sum;
    for (var step = LANES / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if (lane % LANES < step) { sums[lane] += sums[lane + step]; }
    }
    if (lane % LANES == 0u && row < job.rows) {
        o[job.out_start + group.y * job.out_stride + row] = bitcast<u32>(sums[lane]);
    }
}
