//! One instruction of classic BPF, as the kernel reads it.

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when the comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand: value, offset, mask or distance.
    pub k: u32,
}

impl Instruction {
    /// Bytes of one instruction.
    pub const SIZE: usize = size_of::<Self>();

    /// An instruction that does not branch.
    #[must_use]
    pub const fn new(code: u32, k: u32) -> Self {
        Self { code: code as u16, jt: 0, jf: 0, k }
    }

    /// In the machine's byte order, for a plan.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..2].copy_from_slice(&self.code.to_ne_bytes());
        bytes[2] = self.jt;
        bytes[3] = self.jf;
        bytes[4..].copy_from_slice(&self.k.to_ne_bytes());
        bytes
    }

    /// The reverse of [`Instruction::to_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let [c0, c1, jt, jf, k0, k1, k2, k3] = bytes;
        Self { code: u16::from_ne_bytes([c0, c1]), jt, jf, k: u32::from_ne_bytes([k0, k1, k2, k3]) }
    }
}
