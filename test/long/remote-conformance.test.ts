import { REMOTE_PROGRAMS, RemoteSite } from "../acceptance/remote-site";
import { type LibvirtSite, libvirtBackend } from "../conformance/libvirt";
import { describeConformance } from "../conformance/suite";

describeConformance("libvirt on another host", (context) =>
  libvirtBackend(context, { start: startRemoteSite, programs: REMOTE_PROGRAMS }),
);

async function startRemoteSite(): Promise<LibvirtSite> {
  const site = await RemoteSite.start();
  return {
    uri: site.uri,
    unreachableUri: site.closedUri,
    etc: `${site.root}/etc/libvirt`,
    images: site.images,
    path: await site.ssh(),
    virsh: (...args) => site.virsh(...args),
    remove: () => site.remove(),
  };
}
