import { openNebulaBackend } from "./opennebula";
import { describeConformance } from "./suite";

describeConformance("opennebula", openNebulaBackend);
