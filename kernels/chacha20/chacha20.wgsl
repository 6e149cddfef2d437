// y = x XOR keystream: ChaCha20 of RFC 8439, one block of 64 bytes an invocation. Words are little-endian, as buffers are.
//
// The tag of a sealed input is checked before it comes here: this kernel decrypts whatever it is given.

override WORDS: u32; // words of x and y
override WORKGROUP: u32 = 64; // workgroup size

@group(0) @binding(0) var<storage, read> x: array<u32>; // u32 [WORDS]
@group(0) @binding(1) var<storage, read> stream: array<u32>; // u32 [12]: key (8 words), nonce (3), number of the first block
@group(0) @binding(2) var<storage, read_write> y: array<u32>; // u32 [WORDS]

fn rotl(value: u32, places: u32) -> u32 {
    return (value << places) | (value >> (32u - places));
}

// One quarter round on four words: in a column of the state, or in a diagonal.
fn quarter(v: vec4<u32>) -> vec4<u32> {
    var a = v.x;
    var b = v.y;
    var c = v.z;
    var d = v.w;
    a += b;
    d = rotl(d ^ a, 16u);
    c += d;
    b = rotl(b ^ c, 12u);
    a += b;
    d = rotl(d ^ a, 8u);
    c += d;
    b = rotl(b ^ c, 7u);
    return vec4<u32>(a, b, c, d);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let block = id.x;
    if block * 16u >= WORDS {
        return;
    }
    // Row by row: constants, key, key, block number and nonce.
    let constants = vec4<u32>(0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u);
    let low = vec4<u32>(stream[0], stream[1], stream[2], stream[3]);
    let high = vec4<u32>(stream[4], stream[5], stream[6], stream[7]);
    let counter = vec4<u32>(stream[11] + block, stream[8], stream[9], stream[10]);
    var a = constants;
    var b = low;
    var c = high;
    var d = counter;
    for (var round = 0u; round < 10u; round++) {
        let c0 = quarter(vec4<u32>(a.x, b.x, c.x, d.x));
        let c1 = quarter(vec4<u32>(a.y, b.y, c.y, d.y));
        let c2 = quarter(vec4<u32>(a.z, b.z, c.z, d.z));
        let c3 = quarter(vec4<u32>(a.w, b.w, c.w, d.w));
        let d0 = quarter(vec4<u32>(c0.x, c1.y, c2.z, c3.w));
        let d1 = quarter(vec4<u32>(c1.x, c2.y, c3.z, c0.w));
        let d2 = quarter(vec4<u32>(c2.x, c3.y, c0.z, c1.w));
        let d3 = quarter(vec4<u32>(c3.x, c0.y, c1.z, c2.w));
        a = vec4<u32>(d0.x, d1.x, d2.x, d3.x);
        b = vec4<u32>(d3.y, d0.y, d1.y, d2.y);
        c = vec4<u32>(d2.z, d3.z, d0.z, d1.z);
        d = vec4<u32>(d1.w, d2.w, d3.w, d0.w);
    }
    let rows = array<vec4<u32>, 4>(a + constants, b + low, c + high, d + counter);
    let first = block * 16u;
    for (var row = 0u; row < 4u; row++) {
        let at = first + row * 4u;
        let words = rows[row];
        if at < WORDS {
            y[at] = x[at] ^ words.x;
        }
        if at + 1u < WORDS {
            y[at + 1u] = x[at + 1u] ^ words.y;
        }
        if at + 2u < WORDS {
            y[at + 2u] = x[at + 2u] ^ words.z;
        }
        if at + 3u < WORDS {
            y[at + 3u] = x[at + 3u] ^ words.w;
        }
    }
}
