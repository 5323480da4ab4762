// Rows of a matrix times one input: 64 rows a workgroup. All lanes compute the values of eight blocks of every row,
// neighbours along a row; then each lane adds up those of its own row, in the order that defines the product.
const ROWS = 64u;
const AT_ONCE = 8u;
const STRIDE = AT_ONCE * HALVES + 1u;
var<workgroup> values: array<u32, ROWS * STRIDE>;

@compute @workgroup_size(64)
fn rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let slot = slots[group.y];
    if (slot.y != slab.x) { return; }
    let first = group.x * ROWS;
    let input = group.y * job.in_stride;
    var sum = 0u;
    for (var start = 0u; start < job.blocks; start += AT_ONCE) {
        let live = min(AT_ONCE, job.blocks - start);
        for (var i = lane; i < ROWS * AT_ONCE; i += ROWS) {
            let row = i / AT_ONCE;
            let block = i % AT_ONCE;
            if (first + row < job.rows && block < live) {
                let bytes = slot.x + job.base + (first + row) * job.row_bytes;
                block_values(row * STRIDE + block * HALVES, bytes, start + block, input + (start + block) * RECORD);
            }
        }
        workgroupBarrier();
        if (first + lane < job.rows) {
            for (var block = 0u; block < live; block++) {
                let scale = x[input + (start + block) * RECORD + 8u];
                for (var half = 0u; half < HALVES; half++) {
                    sum = fused(values[lane * STRIDE + block * HALVES + half], scale, sum);
                }
            }
        }
        workgroupBarrier();
    }
    if (first + lane < job.rows) { o[job.out_start + group.y * job.out_stride + first + lane] = sum; }
}
