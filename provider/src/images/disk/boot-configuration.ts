/** Where boot loaders have what they start, by the loaders that read it in one way. */
export const BOOT_CONFIGURATIONS = {
  grub: ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"],
  grubLegacy: ["/boot/grub/grub.conf", "/boot/grub/menu.lst"],
  syslinux: ["/boot/extlinux/extlinux.conf", "/boot/extlinux.conf", "/boot/syslinux/syslinux.cfg", "/extlinux.conf"],
  lilo: ["/etc/lilo.conf"],
} as const;

/** Of the Boot Loader Specification: a file for each kernel, as systemd and Red Hat's GRUB read them. */
export const BOOT_ENTRIES = "/boot/loader/entries";
/** Variables of GRUB's: Red Hat keeps kernels' arguments there. */
export const GRUB_ENVIRONMENTS = ["/boot/grub2/grubenv", "/boot/grub/grubenv"];
