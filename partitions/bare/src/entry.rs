//! The Multiboot2 header and the way from 32-bit protected mode to
//! [`crate::first`] (Multiboot2 specification, section 3.3 "I386 machine
//! state"; Intel SDM vol. 3, "Initializing IA-32e Mode").

use core::arch::global_asm;

global_asm!(
    r#"
.section .multiboot, "a"
.balign 8
bare_multiboot:
    .long 0xe85250d6
    .long 0
    .long bare_multiboot_end - bare_multiboot
    .long -(0xe85250d6 + (bare_multiboot_end - bare_multiboot))
    /* Page-align the modules. */
    .short 6, 0
    .long 8
    /* End. */
    .short 0, 0
    .long 8
bare_multiboot_end:

.section .bss.boot, "aw", @nobits
.balign 4096
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pds:
    .skip 4096 * 4
boot_stack:
    .skip 256 * 1024
boot_stack_top:

.section .rodata.boot, "a"
.balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdt_pointer:
    .short 23
    .long boot_gdt
    .long 0

.section .text.boot, "ax"
.code32
.global bare_start
bare_start:
    cli
    cld
    mov esp, offset boot_stack_top
    mov ebp, ebx

    /* The first 4 GiB with 2 MiB pages. */
    mov eax, offset boot_pdpt + 3
    mov [boot_pml4], eax
    mov eax, offset boot_pds + 3
    mov edi, offset boot_pdpt
    mov ecx, 4
2:  mov [edi], eax
    add eax, 4096
    add edi, 8
    loop 2b
    mov eax, 0x83
    mov edi, offset boot_pds
    mov ecx, 2048
3:  mov [edi], eax
    add eax, 0x200000
    add edi, 8
    loop 3b

    /* CR4: PAE, OSFXSR, OSXMMEXCPT. */
    mov eax, 0x620
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    /* EFER.LME. */
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    /* CR0: PG, WP, NE, ET, MP, PE; caches on. */
    mov eax, 0x80010033
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    push 0x08
    mov eax, offset long_mode
    push eax
    retf

.code64
long_mode:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset boot_stack_top
    mov edi, ebp
    xor ebp, ebp
    call {first}
    ud2
.text
"#,
    first = sym crate::first,
);
