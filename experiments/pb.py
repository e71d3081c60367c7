"""Write the 12 runs of the screening: TOML, and run lists for two workers."""
import numpy as np
names=['components','nested','hard','deep','solid','weak','appearance','magnify','cysts','rate','dummy']
g=[1,1,0,1,1,1,0,0,0,1,0]
rows=[np.roll(g,k).tolist() for k in range(11)]+[[0]*11]
import json
json.dump(dict(names=names,rows=rows),open('runs/pb/design.json','w'))
cmds=[]
for n,r in enumerate(rows):
    f=dict(zip(names,r))
    terms={'dice':1.0}
    if f['nested']: terms|={'cross-entropy':0.0,'nested':1.0}
    if f['components']: terms['components']=0.5
    ap=dict(washout=.12,enhancement=.25,codec=.15) if not f['appearance'] else dict(washout=.25,enhancement=.5,codec=.3)
    zo=dict(zoom=1.5,shrink=1.25) if not f['magnify'] else dict(zoom=2.2,shrink=1.1)
    t=f"""[training]
patch = 192
classes = 4
[wide-unet2]
shares = [0.15, 0.45, 0.4]
by_tumour = 0.7
cysts = {6.0 if f['cysts'] else 1.0}
seed = {300+n}
schedule = {{learning_rate = {2.5e-3 if f['rate'] else 1.2e-3}, weight_decay = 1.0e-2, epochs = 1, epoch_steps = 750}}
[wide-unet2.loss]
empty = 0.5
terms = {{{', '.join(f'{k} = {v}' for k,v in terms.items())}}}
[wide-unet2.augmentation]
pasted_among = 0.3
grown_among = 0.2
masses = 0.04
"""+''.join(f'{k} = {v}\n' for k,v in {**ap,**zo}.items())
    open(f'runs/pb/{n}.toml','w').write(t)
    env=[]
    if f['hard']: env.append('X_HARD=runs/hard.json')
    if f['deep']: env.append('X_DEEP=1')
    if f['solid']: env.append('X_SOLID=1')
    data='runs/data-weak.toml' if f['weak'] else 'runs/data.toml'
    cmds.append(f"runs/runone.sh p{n} {n%3} {' '.join(env)} -- --config {data} runs/pb/{n}.toml --start-from runs/start/wide-unet2.safetensors")
for w in (0,1): open(f'runs/pb/worker{w}.sh','w').write('\n'.join(cmds[w::2])+'\n')
print('\n'.join(cmds))
