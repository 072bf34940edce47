// Browsers start no worker on a page that was opened as a file. There the search's script runs in a hidden frame
// instead, which has a global scope of its own; what passes between the two are the same messages.
"use strict";

class IFrameWorker extends EventTarget {
  constructor(url) {
    super();
    this.ready = new Promise((resolve) => {
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const script = frame.contentDocument.createElement("script");
      this.scope = frame.contentWindow;
      this.scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      script.src = url;
      script.addEventListener("load", resolve);
      frame.contentDocument.body.append(script);
    });
  }

  async postMessage(data) {
    await this.ready;
    this.scope.dispatchEvent(new this.scope.MessageEvent("message", { data }));
  }
}

if (location.protocol === "file:") window.Worker = IFrameWorker;
