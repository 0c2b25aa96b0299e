/* apic_eoi: the local APIC's registers that a kernel touches at every interrupt.
 *
 * An iteration raises and lowers the task priority, writes EOI (nothing is in service) and reads
 * the in-service and request registers: five accesses, nine instructions. Intel SDM volume 3,
 * sections 10.8.3.1 (task priority), 10.8.4 (IRR, ISR) and 10.8.5 (EOI).
 */
    .intel_syntax noprefix
    .equ    APIC, 0xFEE00000
    .equ    TPR, 0x80
    .equ    EOI, 0xB0
    .equ    SPURIOUS, 0xF0
    .equ    ISR, 0x120
    .equ    IRR, 0x220
    .text
    .globl prepare
prepare:
    mov     dword ptr [APIC + SPURIOUS], 0x1FF
    ret

    .globl bench
bench:
    push    ebx
    mov     ecx, [esp + 8]
    mov     edx, APIC
    xor     ebx, ebx
1:  mov     dword ptr [edx + TPR], 0x20
    add     ebx, [edx + ISR]
    mov     dword ptr [edx + EOI], 0
    add     ebx, [edx + IRR]
    mov     dword ptr [edx + TPR], 0
    lea     ebx, [ebx + ebx*2]
    add     ebx, ecx
    dec     ecx
    jnz     1b
    mov     eax, ebx
    pop     ebx
    ret
