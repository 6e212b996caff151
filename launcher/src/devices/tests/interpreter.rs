//! The few instructions that device programs are made of.

use super::Request;
use crate::devices::ebpf::{AND, COPY, EXIT, Instruction, JUMP, JUMP_IF_ANY, JUMP_IF_OTHER, LOAD, SET, SHIFT_RIGHT};
use crate::devices::rules::Kind;

/// Whether the program lets a request go on. Registers that nobody wrote are an error, as for the verifier.
pub fn run(program: &[Instruction], request: &Request) -> bool {
    let kind = if request.kind == Kind::Block { 1 } else { 2 };
    let context = [u32::from(request.access.0) << 16 | kind, request.major, request.minor];
    let mut registers: [Option<u32>; 11] = [None; 11];
    let mut next = 0_usize;
    loop {
        let Instruction { code, registers: named, offset, immediate } = program[next];
        let (destination, source) = (usize::from(named & 15), usize::from(named >> 4));
        let value = || registers[destination].expect("a register that was written");
        let operand = immediate.cast_unsigned();
        next += 1;
        let skip = match code {
            LOAD => {
                assert_eq!(source, 1, "the context");
                registers[destination] = Some(context[usize::try_from(offset).unwrap() / 4]);
                false
            }
            COPY => {
                registers[destination] = Some(registers[source].expect("a register that was written"));
                false
            }
            SET => {
                registers[destination] = Some(operand);
                false
            }
            AND => {
                registers[destination] = Some(value() & operand);
                false
            }
            SHIFT_RIGHT => {
                registers[destination] = Some(value() >> operand);
                false
            }
            JUMP => true,
            JUMP_IF_OTHER => value() != operand,
            JUMP_IF_ANY => value() & operand != 0,
            EXIT => return registers[0].expect("an answer") != 0,
            other => panic!("no such instruction here: {other:#x}"),
        };
        if skip {
            next += usize::try_from(offset).expect("no way back");
        }
    }
}
