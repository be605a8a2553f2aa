import { execa } from "execa";

/** The libvirt URI that reaches a site through its socket. */
export function socketUri(socket: string): string {
  return `qemu:///system?socket=${socket.split("/").map(encodeURIComponent).join("/")}`;
}

/** Runs one virsh command against a site. @returns the lines that it prints, without empty ones */
export async function virsh(socket: string, args: readonly string[]): Promise<string[]> {
  const options = { env: { LC_ALL: "C" }, lines: true } as const;
  const { stdout } = await execa("virsh", ["-q", "-c", socketUri(socket), ...args], options);
  return stdout.map((line) => line.trim()).filter((line) => line !== "");
}

/** Whether a libvirtd answers on the socket. */
export async function libvirtAnswers(socket: string): Promise<boolean> {
  return virsh(socket, ["list", "--name"]).then(
    () => true,
    () => false,
  );
}
