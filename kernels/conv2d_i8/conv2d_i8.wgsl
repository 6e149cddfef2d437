// y[b, p, q, o] = bias[o] + sum over (u, v, c) of x[b, p * STRIDE_H + u - PAD_H, q * STRIDE_W + v - PAD_W, c] * w[o, u, v, c].
//
// Channels lie innermost in both operands, so that four of them meet in one dot4I8Packed. Taps outside the picture are zero:
// they are left out, which is the same. Integer sums do not depend on their order: every device and every workgroup size gives
// the same bits.

override B: u32; // pictures
override H: u32; // their height
override W: u32; // their width
override C: u32; // their channels, a multiple of 4
override O: u32; // filters, channels of y
override KH: u32; // filter height
override KW: u32; // filter width
override OH: u32; // height of y
override OW: u32; // width of y
override STRIDE_H: u32 = 1;
override STRIDE_W: u32 = 1;
override PAD_H: u32 = 0; // rows of zeros above
override PAD_W: u32 = 0; // columns of zeros to the left
override TILE: u32 = 8; // workgroup edge

@group(0) @binding(0) var<storage, read> x: array<u32>; // i8 [B, H, W, C]
@group(0) @binding(1) var<storage, read> w: array<u32>; // i8 [O, KH, KW, C]
@group(0) @binding(2) var<storage, read> bias: array<i32>; // i32 [O]
@group(0) @binding(3) var<storage, read_write> y: array<i32>; // i32 [B, OH, OW, O]

@compute @workgroup_size(TILE, TILE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let o = id.x;
    let pixel = id.y;
    if o >= O || pixel >= B * OH * OW {
        return;
    }
    let b = pixel / (OH * OW);
    let p = pixel / OW % OH;
    let q = pixel % OW;
    let words = C / 4u;
    var sum = bias[o];
    for (var u = 0u; u < KH; u++) {
        // Below zero wraps to far beyond the picture.
        let row = p * STRIDE_H + u - PAD_H;
        if row >= H {
            continue;
        }
        for (var v = 0u; v < KW; v++) {
            let column = q * STRIDE_W + v - PAD_W;
            if column >= W {
                continue;
            }
            let pixels = ((b * H + row) * W + column) * words;
            let taps = ((o * KH + u) * KW + v) * words;
            for (var c = 0u; c < words; c++) {
                sum += dot4I8Packed(x[pixels + c], w[taps + c]);
            }
        }
    }
    y[pixel * O + o] = sum;
}
