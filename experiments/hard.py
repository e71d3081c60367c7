"""How much the start fails on each training slice -> weights 1..5."""
import sys,json,os
sys.path.insert(0,'.')
import numpy as np, torch
from pathlib import Path
from kits.runtime.engine import Engine
from kits.runtime.weights import load_member
from kits.cascade.preprocess import pad_to_window
from kits.geometry import cover, spans
from train.data.cache import load
from train.data.sampling import Z_MARGIN
torch.set_num_threads(1)
m=load_member(Path('runs/start/wide-unet2.safetensors')); e=Engine('cpu','torch'); net=m.network.to(memory_format=torch.channels_last).eval(); norm=m.info.norm
res={}
with torch.inference_mode(), e.autocast():
  for s in load(Path('runs/cache'),'segment'):
    hu=torch.from_numpy(np.array(s.hu)).float(); D,R,C=hu.shape
    sl=pad_to_window(norm.apply(hu),norm.air); w={}
    wanted=[(max(0,a[0]-Z_MARGIN),min(D,b[0]+Z_MARGIN),tuple((y,x) for y in cover(a[1],b[1],R) for x in cover(a[2],b[2],C))) for a,b in s.kidneys]
    for first,last,wins in spans(wanted):
        p=e.predict([net],sl,range(first,last),wins)[...,:R,:C].numpy()
        for z in range(first,last):
            L=np.asarray(s.labels[z]); q=p[z-first]; K=L>0; T=L==2
            def d(a,b): return (2*(a*b).sum()+50)/(a.sum()+b.sum()+50)
            w[z]=round(float(1+4*(0.5*(1-d(1-q[0],K))+(1-d(q[2],T)))),3)
    if w: res[s.name]=w
json.dump(res,open('runs/hard.json','w'))
v=np.array([x for r in res.values() for x in r.values()]); print(len(v),np.percentile(v,[5,25,50,75,95]))
