//! How large a kernel is for a driver's compiler, and what one of its invocations keeps.
//!
//! Drivers write every call out, so that a few functions that call each other twice become more code than any machine compiles;
//! and they keep variables and values of each invocation somewhere, however many invocations there are. Both are counted in what
//! naga made of the text.

use std::collections::BTreeMap;

use naga::{
    AddressSpace, Block, Function, Handle, Module, Statement, TypeInner,
    proc::TypeResolution,
    valid::{FunctionInfo, ModuleInfo},
};

/// What an entry point and the functions that it calls come to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    /// Expressions with every call written out.
    pub(crate) expressions: u64,
    /// Bytes of the variables of one invocation.
    pub(crate) invocation_bytes: u64,
    /// Bytes of the largest array or struct that is a value: loaded, returned or passed as a whole.
    pub(crate) value_bytes: u64,
}

/// The size of the entry point with this index.
pub(crate) fn of_entry(module: &Module, info: &ModuleInfo, entry: usize) -> Size {
    let mut functions: BTreeMap<Handle<Function>, u64> = BTreeMap::new();
    let mut size = Size::default();
    // A function calls only those that stand before it.
    for (handle, function) in module.functions.iter() {
        let expressions = written_out(function, &functions);
        functions.insert(handle, expressions);
    }
    let function = &module.entry_points[entry].function;
    size.expressions = written_out(function, &functions);

    let uses = info.get_entry_point(entry);
    let private = module
        .global_variables
        .iter()
        .filter(|(handle, global)| global.space == AddressSpace::Private && !uses[*handle].is_empty());
    size.invocation_bytes = private.map(|(_, global)| bytes(module, &module.types[global.ty].inner)).sum();
    let mut called = Vec::new();
    calls(&function.body, &mut |callee| called.push(callee));
    let mut seen = std::collections::BTreeSet::new();
    while let Some(handle) = called.pop() {
        if seen.insert(handle) {
            calls(&module.functions[handle].body, &mut |callee| called.push(callee));
            size.add(module, &module.functions[handle], &info[handle]);
        }
    }
    size.add(module, function, uses);
    size
}

impl Size {
    fn add(&mut self, module: &Module, function: &Function, info: &FunctionInfo) {
        for (_, local) in function.local_variables.iter() {
            let bytes = bytes(module, &module.types[local.ty].inner);
            self.invocation_bytes = self.invocation_bytes.saturating_add(bytes);
        }
        for (handle, _) in function.expressions.iter() {
            let inner = match &info[handle].ty {
                TypeResolution::Handle(handle) => &module.types[*handle].inner,
                TypeResolution::Value(inner) => inner,
            };
            if matches!(inner, TypeInner::Array { .. } | TypeInner::Struct { .. }) {
                self.value_bytes = self.value_bytes.max(bytes(module, inner));
            }
        }
    }
}

fn bytes(module: &Module, inner: &TypeInner) -> u64 {
    u64::from(inner.try_size(module.to_ctx()).unwrap_or(u32::MAX))
}

fn written_out(function: &Function, functions: &BTreeMap<Handle<Function>, u64>) -> u64 {
    let mut expressions = function.expressions.len() as u64 + 1;
    calls(&function.body, &mut |callee| {
        expressions = expressions.saturating_add(functions.get(&callee).copied().unwrap_or(0));
    });
    expressions
}

/// Tells every call in a block.
fn calls(block: &Block, tell: &mut impl FnMut(Handle<Function>)) {
    for statement in block.iter() {
        match statement {
            Statement::Call { function, .. } => tell(*function),
            Statement::Block(block) => calls(block, tell),
            Statement::If { accept, reject, .. } => {
                calls(accept, tell);
                calls(reject, tell);
            }
            Statement::Switch { cases, .. } => cases.iter().for_each(|case| calls(&case.body, tell)),
            Statement::Loop { body, continuing, .. } => {
                calls(body, tell);
                calls(continuing, tell);
            }
            _ => {}
        }
    }
}
