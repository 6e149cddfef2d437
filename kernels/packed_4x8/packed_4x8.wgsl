// The functions of the language feature packed_4x8_integer_dot_product, for compilers that lack it: text that is put behind a
// kernel's own. A declaration of a module hides the built-in function of the same name, so that the same text also runs where
// the feature is there, and must give the same bits.

fn dot4I8Packed(a: u32, b: u32) -> i32 {
    let products = unpack4xI8(a) * unpack4xI8(b);
    return products.x + products.y + products.z + products.w;
}

fn dot4U8Packed(a: u32, b: u32) -> u32 {
    let products = unpack4xU8(a) * unpack4xU8(b);
    return products.x + products.y + products.z + products.w;
}

fn unpack4xI8(a: u32) -> vec4<i32> {
    return vec4<i32>(vec4<u32>(a << 24u, a << 16u, a << 8u, a)) >> vec4<u32>(24u);
}

fn unpack4xU8(a: u32) -> vec4<u32> {
    return (vec4<u32>(a) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xffu);
}

fn pack4xI8(a: vec4<i32>) -> u32 {
    return pack4xU8(vec4<u32>(a));
}

fn pack4xU8(a: vec4<u32>) -> u32 {
    let bytes = (a & vec4<u32>(0xffu)) << vec4<u32>(0u, 8u, 16u, 24u);
    return bytes.x | bytes.y | bytes.z | bytes.w;
}

fn pack4xI8Clamp(a: vec4<i32>) -> u32 {
    return pack4xI8(clamp(a, vec4<i32>(-128), vec4<i32>(127)));
}

fn pack4xU8Clamp(a: vec4<u32>) -> u32 {
    return pack4xU8(min(a, vec4<u32>(255u)));
}
