//! What a unit costs a device, as far as the text tells: arithmetic and bytes, estimated without running anything.
//!
//! Each invocation of a kernel counts the arithmetic of its statements: an operation on a vector of `n` counts `n`, one on a matrix
//! its elements, a function of the maths library one a component. Of an `if` or `switch` the dearest way counts. A loop counts as
//! often as its condition says, where that compares a counter with a number that is known before the kernel runs; any other loop
//! counts [`ROUNDS_UNKNOWN`] rounds, and one with a known bound is taken to begin at 0 and not to end early. Bytes are those of every
//! buffer that a pass binds, once a pass.
//!
//! This is a price tag, not a promise: what units really take is measured. A job file may state `work` itself.

use std::collections::BTreeMap;

use naga::{
    BinaryOperator, Block, Expression, Function, Handle, Literal, Module, Statement, TypeInner,
    UnaryOperator, VectorSize,
    valid::{FunctionInfo, ModuleInfo},
};

use crate::plan::{Buffer, Kernel, Pass};

/// Rounds of a loop whose bound nobody knows before it runs.
pub const ROUNDS_UNKNOWN: u64 = 32;
/// Rounds of one loop that are believed.
const ROUNDS_MAX: u64 = 1 << 32;
/// How far back a loop's bound is looked up. Each step may look at two expressions.
const LOOK_BACK_MAX: u32 = 8;

/// What one unit costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitWork {
    /// Arithmetic operations.
    pub flops: u64,
    /// Bytes of all buffers that its passes bind.
    pub bytes: u64,
}

/// The work of all passes, with each kernel built in its first way.
pub(crate) fn of_passes(passes: &[Pass], kernels: &[Kernel], buffers: &[Buffer]) -> UnitWork {
    let mut work = UnitWork::default();
    for pass in passes {
        let kernel = &kernels[pass.kernel];
        let variant = kernel.variants[0];
        let overrides = kernel.overrides(variant.auto);
        let groups = pass.dispatch.iter().map(|n| u64::from(n.value(&overrides).unwrap_or(1)));
        let invocations = groups.fold(u64::from(variant.invocations()), u64::saturating_mul);
        work.flops = work.flops.saturating_add(variant.operations.saturating_mul(invocations));
        let bytes: u64 = pass.bind.iter().map(|binding| buffers[binding.buffer].size_bytes).sum();
        work.bytes = work.bytes.saturating_add(bytes);
    }
    work
}

/// Arithmetic operations of one invocation of an entry point; its overrides have values.
pub(crate) fn operations(module: &Module, info: &ModuleInfo, entry: usize) -> u64 {
    let mut functions = BTreeMap::new();
    // A function calls only those that stand before it.
    for (handle, function) in module.functions.iter() {
        let cost =
            Counting { module, info: &info[handle], function, functions: &functions }.block(&function.body);
        functions.insert(handle, cost);
    }
    let function = &module.entry_points[entry].function;
    Counting { module, info: info.get_entry_point(entry), function, functions: &functions }
        .block(&function.body)
}

struct Counting<'a> {
    module: &'a Module,
    info: &'a FunctionInfo,
    function: &'a Function,
    functions: &'a BTreeMap<Handle<Function>, u64>,
}

impl Counting<'_> {
    fn block(&self, block: &Block) -> u64 {
        block.iter().map(|statement| self.statement(statement)).fold(0, u64::saturating_add)
    }

    fn statement(&self, statement: &Statement) -> u64 {
        match statement {
            Statement::Emit(range) => {
                range.clone().map(|handle| self.expression(handle)).fold(0, u64::saturating_add)
            }
            Statement::Block(block) => self.block(block),
            Statement::If { accept, reject, .. } => self.block(accept).max(self.block(reject)),
            Statement::Switch { cases, .. } => {
                cases.iter().map(|case| self.block(&case.body)).max().unwrap_or(0)
            }
            Statement::Loop { body, continuing, .. } => {
                let round = self.block(body).saturating_add(self.block(continuing));
                round.saturating_mul(self.rounds(body, continuing).unwrap_or(ROUNDS_UNKNOWN))
            }
            Statement::Call { function, .. } => self.functions.get(function).copied().unwrap_or(0),
            Statement::Atomic { .. } => 1,
            _ => 0,
        }
    }

    fn expression(&self, handle: Handle<Expression>) -> u64 {
        match &self.function.expressions[handle] {
            Expression::Binary { op: BinaryOperator::Multiply, left, right } => {
                self.components(handle).saturating_mul(self.inner_length(*left, *right))
            }
            Expression::Binary { .. }
            | Expression::Math { .. }
            | Expression::Unary { op: UnaryOperator::Negate, .. }
            | Expression::Select { .. } => self.components(handle),
            _ => 0,
        }
    }

    fn inner(&self, handle: Handle<Expression>) -> &TypeInner {
        self.info[handle].ty.inner_with(&self.module.types)
    }

    /// Elements of what an expression gives.
    fn components(&self, handle: Handle<Expression>) -> u64 {
        match self.inner(handle) {
            TypeInner::Vector { size, .. } => *size as u64,
            TypeInner::Matrix { columns, rows, .. } => *columns as u64 * *rows as u64,
            _ => 1,
        }
    }

    /// Multiplications and additions of each element of a product.
    fn inner_length(&self, left: Handle<Expression>, right: Handle<Expression>) -> u64 {
        let product = |length: VectorSize| 2 * length as u64;
        match (self.inner(left), self.inner(right)) {
            (TypeInner::Matrix { columns, .. }, TypeInner::Matrix { .. } | TypeInner::Vector { .. }) => {
                product(*columns)
            }
            (TypeInner::Vector { size, .. }, TypeInner::Matrix { .. }) => product(*size),
            _ => 1,
        }
    }

    /// How often a loop runs that ends where a comparison with a known number says so.
    fn rounds(&self, body: &Block, continuing: &Block) -> Option<u64> {
        let condition = body.iter().find_map(|statement| match statement {
            Statement::If { condition, accept, reject } => {
                let ends = |block: &Block| matches!(block.first(), Some(Statement::Break));
                (ends(accept) || ends(reject)).then_some(*condition)
            }
            _ => None,
        })?;
        let mut condition = condition;
        while let Expression::Unary { op: UnaryOperator::LogicalNot, expr } =
            self.function.expressions[condition]
        {
            condition = expr;
        }
        let Expression::Binary { op, left, right } = self.function.expressions[condition] else {
            return None;
        };
        let bound = match op {
            BinaryOperator::Less | BinaryOperator::LessEqual | BinaryOperator::NotEqual => {
                self.value(right).or_else(|| self.value(left))?
            }
            BinaryOperator::Greater | BinaryOperator::GreaterEqual => {
                self.value(left).or_else(|| self.value(right))?
            }
            _ => return None,
        };
        let closed = matches!(op, BinaryOperator::LessEqual | BinaryOperator::GreaterEqual);
        let step = self.step(continuing).unwrap_or(1).max(1);
        Some(bound.saturating_add(u64::from(closed)).div_ceil(step).clamp(1, ROUNDS_MAX))
    }

    /// What a loop's counter grows by in each round.
    fn step(&self, continuing: &Block) -> Option<u64> {
        continuing.iter().find_map(|statement| match statement {
            Statement::Store { value, .. } => match self.function.expressions[*value] {
                Expression::Binary { op: BinaryOperator::Add, left, right } => {
                    self.value(right).or_else(|| self.value(left))
                }
                _ => None,
            },
            _ => None,
        })
    }

    /// A number that is known before the kernel runs.
    fn value(&self, handle: Handle<Expression>) -> Option<u64> {
        self.value_within(handle, LOOK_BACK_MAX)
    }

    fn value_within(&self, handle: Handle<Expression>, steps: u32) -> Option<u64> {
        let steps = steps.checked_sub(1)?;
        match self.function.expressions[handle] {
            Expression::Literal(literal) => number(literal),
            Expression::Constant(constant) => {
                match self.module.global_expressions[self.module.constants[constant].init] {
                    Expression::Literal(literal) => number(literal),
                    _ => None,
                }
            }
            Expression::As { expr, .. } => self.value_within(expr, steps),
            Expression::Binary { op, left, right } => {
                let (left, right) = (self.value_within(left, steps)?, self.value_within(right, steps)?);
                match op {
                    BinaryOperator::Add => left.checked_add(right),
                    BinaryOperator::Subtract => left.checked_sub(right),
                    BinaryOperator::Multiply => left.checked_mul(right),
                    BinaryOperator::Divide => left.checked_div(right),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

fn number(literal: Literal) -> Option<u64> {
    match literal {
        Literal::U32(value) => Some(value.into()),
        Literal::I32(value) => u64::try_from(value).ok(),
        Literal::AbstractInt(value) => u64::try_from(value).ok(),
        _ => None,
    }
}
