import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { GUEST_FOLDER } from "../images/debian-image";
import type { GuestFileSystem } from "../images/file-system";
import type { GuestChange, GuestFile } from "../images/overlay";

const PROGRAM = "/usr/sbin/vc-guest";
const UNIT_FOLDER = "/etc/systemd/system";
const SYSTEMD = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
const INITTAB = "/etc/inittab";
/** What System V's init calls at the start of a runlevel. */
const RUNLEVEL_LINE = /^[^#:\n]*:[0-9]*:wait:\/etc\/(init\.d\/rc|rc\.d\/rc)[ \t]/m;
const INITTAB_LINE = `vc:2345:once:${PROGRAM} boot\n`;

/** This project's guest program. */
export async function guestProgram(): Promise<readonly GuestFile[]> {
  return [{ path: PROGRAM, content: await readFile(join(GUEST_FOLDER, "vc-guest")), mode: 0o755 }];
}

/** What makes an image start the guest program at each boot; nothing where its init is none that is known here. */
export async function guestService(root: GuestFileSystem): Promise<readonly GuestChange[]> {
  if ((await Promise.all(SYSTEMD.map((path) => root.has(path)))).includes(true)) {
    const unit = await readFile(join(GUEST_FOLDER, "vc-guest.service"));
    return [
      { path: `${UNIT_FOLDER}/vc-guest.service`, content: unit, mode: 0o644 },
      { path: `${UNIT_FOLDER}/multi-user.target.wants/vc-guest.service`, target: "../vc-guest.service" },
    ];
  }
  const inittab = await root.read(INITTAB);
  if (RUNLEVEL_LINE.test(inittab) && !inittab.includes(INITTAB_LINE)) {
    return [{ path: INITTAB, content: `${inittab.replace(/\n?$/, "\n")}${INITTAB_LINE}`, mode: 0o644 }];
  }
  return [];
}
