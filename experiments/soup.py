"""soup.py OUT logits(b,k,t) W:share ..."""
import sys; sys.path.insert(0,'.')
import torch
from dataclasses import replace
from pathlib import Path
from torch import nn
from kits.runtime.weights import load_member, save_weights
from train.optimise import with_classes
out,logits,*ws=sys.argv[1:]
lo=[float(x) for x in logits.split(',')]
tot=0; mean=None; first=None
for w in ws:
    f,_,s=w.partition(':'); s=float(s or 1)
    m=load_member(Path(f)); n=m.network
    if m.info.classes<4: n=with_classes(n,m.info.architecture,4)
    sd={k:v.double()*s if v.is_floating_point() else v for k,v in n.state_dict().items()}
    mean=sd if mean is None else {k:mean[k]+v if v.is_floating_point() else v for k,v in sd.items()}
    tot+=s
    if first is None or m.info.classes==4: first=m
mean={k:(v/tot).float() if v.is_floating_point() else v for k,v in mean.items()}
first.network.load_state_dict(mean)
last=[m for m in first.network.modules() if isinstance(m,nn.Conv2d) and m.bias is not None][-1]
with torch.no_grad(): last.bias+=torch.tensor((lo[0],lo[1],lo[2],lo[1])).repeat_interleave(len(last.bias)//4)
save_weights(Path(out),first.network,first.info)
