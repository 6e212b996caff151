//! The part of classic BPF that filters use, run as the kernel would.

use brood_launcher::seccomp::Instruction;

/// `struct seccomp_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    pub number: u32,
    pub architecture: u32,
    pub arguments: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        let argument = |offset: u32| self.arguments[(offset / 8) as usize];
        match offset {
            0 => self.number,
            4 => self.architecture,
            16..64 if offset.is_multiple_of(8) => argument(offset - 16) as u32,
            16..64 if offset.is_multiple_of(4) => (argument(offset - 20) >> 32) as u32,
            _ => panic!("a load from {offset}"),
        }
    }
}

/// What the program returns; also what the kernel's checker refuses is refused.
pub fn run(program: &[Instruction], data: &Data) -> u32 {
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = data.word(k), // LD W ABS
            0x54 => accumulator &= k,           // AND K
            0x05 => at += k as usize,           // JA
            0x15 => branch(accumulator == k),   // JEQ K
            0x25 => branch(accumulator > k),    // JGT K
            0x35 => branch(accumulator >= k),   // JGE K
            0x45 => branch(accumulator & k != 0),
            0x06 => return k, // RET K
            _ => panic!("an instruction that is not known here: {code:#x}"),
        }
    }
}

/// What the kernel checks before it takes a program: known instructions, no jump beyond the end, a return at the end.
pub fn check(program: &[Instruction]) {
    assert!(!program.is_empty() && program.len() <= 4096, "{} instructions", program.len());
    assert_eq!(program[program.len() - 1].code, 0x06, "the last instruction is a return");
    for (at, instruction) in program.iter().enumerate() {
        let far = match instruction.code {
            0x05 => instruction.k as usize,
            0x15 | 0x25 | 0x35 | 0x45 => usize::from(instruction.jt.max(instruction.jf)),
            0x20 | 0x54 | 0x06 => continue,
            other => panic!("instruction {at}: {other:#x}"),
        };
        assert!(at + 1 + far < program.len(), "instruction {at} jumps beyond the end");
    }
}
